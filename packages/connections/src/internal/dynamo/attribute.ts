/**
 * Values of JavaScript as DynamoDB's attribute values and back, without loss: what cannot be kept is refused, with the
 * path where it stands and never what stands there.
 */
import * as Either from "effect/Either"

/** One value on the wire, such as `{ "S": "text" }`. */
export type AttributeValue = Readonly<Record<string, unknown>>

export type AttributeMap = Readonly<Record<string, AttributeValue>>

/** A decimal number that a JavaScript number would change, as its digits. */
export class Exact {
  readonly text: string
  constructor(text: string) {
    this.text = text
  }
}

/** Why a value cannot be kept, or read. */
export class Refused extends Error {
  readonly path: string
  readonly why: string
  constructor(path: string, why: string) {
    super(why)
    this.path = path
    this.why = why
  }
}

/** Values in values, at the most; DynamoDB has the same limit. */
const deepest = 32

const numeric = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/

const few = /^-?\d+(\.\d+)?$/

/** Its digits without zeros around them, and the place of the point behind the first: equal where the numbers are. */
export const canonical = (text: string): string => {
  const [, sign = "", whole = "", part = "", power = "0"] = /^([+-]?)(\d*)\.?(\d*)(?:[eE]([+-]?\d+))?$/.exec(text) ?? []
  const digits = whole + part
  const leading = /^0*/.exec(digits)?.[0].length ?? 0
  const significant = digits.slice(leading).replace(/0+$/, "")
  if (significant === "") return "0"
  return `${sign === "-" ? "-" : ""}${significant}e${whole.length - leading + Number(power) - 1}`
}

/** DynamoDB keeps 38 digits, from 1e-130 to 9.99…e125. */
const keepable = (text: string): boolean => {
  const form = canonical(text)
  if (form === "0") return true
  const [digits = "", power = "0"] = form.replace("-", "").split("e")
  // the exponent may be the negative one
  const exponent = Number(form.slice(form.lastIndexOf("e") + 1)) || Number(power)
  return digits.length <= 38 && exponent >= -130 && exponent <= 125
}

const numberText = (value: number | bigint | Exact, path: string): string => {
  if (typeof value === "number") {
    if (!Number.isFinite(value))
      throw new Refused(path, "NaN and the infinities cannot be kept: they are no numbers there")
    // a zero below zero is a zero there
    const text = String(value)
    if (value !== 0 && (Math.abs(value) >= 1e126 || Math.abs(value) < 1e-130)) {
      throw new Refused(path, "a number is between 1e-130 and 9.99e125")
    }
    return text
  }
  const text = typeof value === "bigint" ? String(value) : value.text
  if (!numeric.test(text)) throw new Refused(path, "an exact number is written in digits")
  if (!keepable(text)) throw new Refused(path, "a number has at most 38 digits and is between 1e-130 and 9.99e125")
  return text
}

const numberOf = (text: string): number | bigint | Exact => {
  const value = Number(text)
  // so few digits are the same in any case
  if (text.length <= 15 && few.test(text)) return value
  if (!numeric.test(text)) throw unreadable("the number that is kept there cannot be read")
  if (canonical(String(value)) === canonical(text)) return value
  return /^-?\d+$/.test(text) ? BigInt(text) : new Exact(text)
}

/** The whole number that a number is written as, which is not always the one that it is next to. */
export const wholeOf = (value: number): bigint => {
  const [digits = "", power] = String(value).split("e+")
  if (power === undefined) return BigInt(digits)
  const [whole = "", part = ""] = digits.split(".")
  return BigInt(whole + part.padEnd(Number(power), "0"))
}

const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64")

const isPlain = (value: object): boolean => {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || prototype === Object.prototype
}

const setOf = (values: ReadonlySet<unknown>, path: string): AttributeValue => {
  const all = [...values]
  const [first] = all
  if (first === undefined && all.length === 0) {
    throw new Refused(path, "a set is not empty: leave the attribute out instead")
  }
  if (all.every((one): one is string => typeof one === "string")) return { SS: all }
  if (
    all.every(
      (one): one is number | bigint | Exact =>
        typeof one === "number" || typeof one === "bigint" || one instanceof Exact
    )
  ) {
    return { NS: all.map((one) => numberText(one, path)) }
  }
  if (all.every((one): one is Uint8Array => one instanceof Uint8Array)) return { BS: all.map(base64) }
  throw new Refused(path, "a set holds strings, or numbers, or bytes, and only one of these")
}

const toWire = (value: unknown, path: string, depth: number): AttributeValue => {
  switch (typeof value) {
    case "string":
      return { S: value }
    case "number":
    case "bigint":
      return { N: numberText(value, path) }
    case "boolean":
      return { BOOL: value }
    case "undefined":
      throw new Refused(path, "undefined can only stand in an object, where it is left out")
    case "object":
      break
    default:
      throw new Refused(path, "functions and symbols cannot be kept")
  }
  if (value === null) return { NULL: true }
  if (depth >= deepest) throw new Refused(path, `values are nested at most ${deepest} deep`)
  if (value instanceof Uint8Array) return { B: base64(value) }
  if (value instanceof ArrayBuffer) return { B: base64(new Uint8Array(value)) }
  if (Array.isArray(value)) {
    // not map, which passes over what is missing
    return { L: Array.from(value, (one, index) => toWire(one, `${path}[${index}]`, depth + 1)) }
  }
  if (value instanceof Set) return setOf(value, path)
  if (value instanceof Exact) return { N: numberText(value, path) }
  if (value instanceof Date) throw new Refused(path, "a Date is kept as what a schema makes of it, such as Schema.Date")
  if (!isPlain(value)) throw new Refused(path, "only plain objects, arrays, sets and bytes can be kept")
  return { M: mapOf(value, path, depth + 1) }
}

const mapOf = (value: object, path: string, depth: number): AttributeMap => {
  const out: Record<string, AttributeValue> = {}
  for (const [name, one] of Object.entries(value)) {
    if (one === undefined) continue
    define(out, name, toWire(one, path === "" ? name : `${path}.${name}`, depth))
  }
  return out
}

/** An own property whatever its name is, `__proto__` too. */
const define = (out: object, name: string, value: unknown): void => {
  if (name === "__proto__") {
    Object.defineProperty(out, name, { value, enumerable: true, configurable: true, writable: true })
  } else Reflect.set(out, name, value)
}

/** Where the reader is. It is read only where something is wrong, and reading is synchronous. */
const trail: Array<string | number> = []

const unreadable = (why = "what is kept there cannot be read"): Refused =>
  new Refused(
    trail.reduce<string>(
      (path, part) => (typeof part === "number" ? `${path}[${part}]` : path === "" ? part : `${path}.${part}`),
      ""
    ),
    why
  )

const listOf = (value: unknown): ReadonlyArray<unknown> => {
  if (Array.isArray(value)) return value
  throw unreadable()
}

const textOf = (value: unknown): string => {
  if (typeof value === "string") return value
  throw unreadable()
}

const fromWire = (value: unknown): unknown => {
  if (typeof value !== "object" || value === null) throw unreadable()
  for (const type in value) {
    const one: unknown = Reflect.get(value, type)
    switch (type) {
      case "S":
        return textOf(one)
      case "N":
        return numberOf(textOf(one))
      case "BOOL":
        return one === true
      case "NULL":
        return null
      case "B":
        return Buffer.from(textOf(one), "base64")
      case "M":
        return fromMap(one)
      case "L": {
        const values: Array<unknown> = []
        for (const each of listOf(one)) {
          trail.push(values.length)
          values.push(fromWire(each))
          trail.pop()
        }
        return values
      }
      case "SS":
        return new Set(listOf(one).map(textOf))
      case "NS":
        return new Set(listOf(one).map((each) => numberOf(textOf(each))))
      case "BS":
        return new Set(listOf(one).map((each) => Buffer.from(textOf(each), "base64")))
    }
  }
  throw unreadable("what is kept there is of a type that is not known")
}

const fromMap = (value: unknown): Record<string, unknown> => {
  if (typeof value !== "object" || value === null) throw unreadable()
  const out: Record<string, unknown> = {}
  for (const name of Object.keys(value)) {
    trail.push(name)
    const one = fromWire(Reflect.get(value, name))
    if (name === "__proto__") define(out, name, one)
    else out[name] = one
    trail.pop()
  }
  return out
}

const refusing = <A>(f: () => A): Either.Either<A, Refused> => {
  try {
    return Either.right(f())
  } catch (cause) {
    trail.length = 0
    if (cause instanceof Refused) return Either.left(cause)
    throw cause
  }
}

/** A value as it goes over the wire. */
export const marshal = (value: unknown, path = ""): Either.Either<AttributeValue, Refused> =>
  refusing(() => toWire(value, path, 0))

/** An item as it goes over the wire. */
export const marshalMap = (value: object): Either.Either<AttributeMap, Refused> => refusing(() => mapOf(value, "", 0))

/** A value of the wire. Whole numbers that a number would change are bigints, other such numbers `Exact`. */
export const unmarshal = (value: unknown): Either.Either<unknown, Refused> => refusing(() => fromWire(value))

/** An item of the wire. */
export const unmarshalMap = (value: unknown): Either.Either<Record<string, unknown>, Refused> =>
  refusing(() => fromMap(value))
