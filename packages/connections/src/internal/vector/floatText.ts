/**
 * 32-bit floats in decimal, with the nine digits that tell one from its neighbours instead of the seventeen that a 64-bit
 * number needs: written several times as fast, and half as long.
 */

const comma = 0x2c
const point = 0x2e
const minus = 0x2d
const zero = 0x30

/** What a number takes at the most: a sign, digits, a point, an exponent, a comma. */
const room = 32

let bytes = Buffer.allocUnsafe(1_024 * room)

const powers = [1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9] as const

/** The digits of 0 to 999, three bytes each. */
const triples = Buffer.from(Array.from({ length: 1_000 }, (_, n) => String(n).padStart(3, "0")).join(""), "latin1")

/** Three digits. */
const putTriple = (value: number, at: number): void => {
  const from = value * 3
  bytes[at] = triples[from] ?? 0
  bytes[at + 1] = triples[from + 1] ?? 0
  bytes[at + 2] = triples[from + 2] ?? 0
}

/** The digits of a whole number below 1e9, with zeros before them up to a width; and where they end. */
const putWhole = (value: number, width: number, at: number): number => {
  let rest = value
  for (let position = at + width - 1; position >= at; position--) {
    const next = (rest / 10) | 0
    bytes[position] = zero + rest - next * 10
    rest = next
  }
  return at + width
}

const widthOf = (value: number): number => {
  let width = 1
  while (width < 9 && value >= (powers[width] ?? 0)) width++
  return width
}

/** The digits after the point, without the zeros at the end. */
const putFraction = (value: number, width: number, at: number): number => {
  let digits = value
  let length = width
  for (let next = (digits / 10) | 0; length > 1 && next * 10 === digits; next = (digits / 10) | 0) {
    digits = next
    length--
  }
  return putWhole(digits, length, at)
}

const putText = (text: string, at: number): number => at + bytes.write(text, at, "latin1")

/**
 * Nine digits are exact enough by six: half of what is between two floats is at least 3e-8 of them, half a ninth digit at
 * most 5e-9, and the product that gives the digits is off by 2e-16.
 */
const put = (float: number, start: number): number => {
  let at = start
  let value = float
  if (value < 0) {
    bytes[at++] = minus
    value = -value
  }
  if (value < 1) {
    if (value === 0) {
      bytes[start] = zero
      return start + 1
    }
    let zeros = 0
    let digits = value * 1e9
    while (digits < 1e8 && zeros < 5) {
      zeros++
      digits = value * (powers[zeros] ?? 1) * 1e9
    }
    const whole = (digits + 0.5) | 0
    if (whole < 1e8 || whole >= 1e9) return putText(String(value), at)
    bytes[at++] = zero
    bytes[at++] = point
    for (let i = 0; i < zeros; i++) bytes[at++] = zero
    const upper = (whole / 1_000) | 0
    const first = (upper / 1_000) | 0
    putTriple(first, at)
    putTriple(upper - first * 1_000, at + 3)
    putTriple(whole - upper * 1_000, at + 6)
    at += 9
    while (bytes[at - 1] === zero) at--
    return at
  }
  if (value >= 1e9) return putText(String(value), at)
  const whole = value | 0
  const width = widthOf(whole)
  at = putWhole(whole, width, at)
  const fraction = value - whole
  if (fraction === 0 || width === 9) return fraction === 0 ? at : putText(String(value), start + (float < 0 ? 1 : 0))
  const scale = powers[9 - width] ?? 1
  const digits = Math.round(fraction * scale)
  if (digits === 0) return at
  if (digits >= scale) return putText(String(value), start + (float < 0 ? 1 : 0))
  bytes[at++] = point
  return putFraction(digits, 9 - width, at)
}

/** The numbers as an array in JSON, each as the nearest 32-bit float (a zero without its sign). */
export const write = (vector: ReadonlyArray<number>): string => {
  const { length } = vector
  if (length === 0) return "[]"
  if (bytes.length < length * room) bytes = Buffer.allocUnsafe(length * room)
  bytes[0] = 0x5b
  let at = 1
  for (let i = 0; i < length; i++) {
    at = put(Math.fround(vector[i] ?? 0), at)
    bytes[at++] = comma
  }
  bytes[at - 1] = 0x5d
  return bytes.toString("latin1", 0, at)
}
