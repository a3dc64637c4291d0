/**
 * Numbers for Chroma, which keeps whole numbers and fractions apart (a filter for one does not find the other) and reads
 * decimals by an algorithm that is off by one unit in the last place for about one in ten doubles of 16 and 17 digits.
 */

/**
 * A number as JSON that is never a whole number, written as the server itself writes it: it reads what it wrote once more
 * before a number is kept.
 */
export const written = (value: number): string => {
  const size = Math.abs(value)
  if (size !== 0 && (size < 1e-5 || size >= 1e16)) {
    return value.toExponential()
  }
  const text = String(value)
  return Number.isInteger(value) ? `${text}.0` : text
}

const powers = Array.from({ length: 309 }, (_, exponent) => Number(`1e${exponent}`))

/** The double that the server makes of what is written here: digits as a whole number, then one power of ten. */
const readAs = (value: number): number => {
  const parts = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(written(value))
  if (parts === null) return value
  const [, sign, whole = "", fraction = "", power = "0"] = parts
  let exponent = Number(power) - fraction.length
  let result = Number(whole + fraction)
  for (;;) {
    const factor = powers[Math.abs(exponent)]
    if (factor !== undefined) {
      result = exponent >= 0 ? result * factor : result / factor
      break
    }
    if (result === 0 || exponent > 0) break
    result /= 1e308
    exponent += 308
  }
  return sign === "-" ? -result : result
}

/** Whether the server keeps exactly this number. Those of up to 15 digits are. */
export const isKept = (value: number): boolean => readAs(value) === value

const view = new DataView(new ArrayBuffer(8))

/** The double next to this one, which is not zero. */
const next = (value: number, up: boolean): number => {
  view.setFloat64(0, value)
  view.setBigUint64(0, view.getBigUint64(0) + (value > 0 === up ? 1n : -1n))
  return view.getFloat64(0)
}

/** The greatest number that the server keeps and that is not above this one. */
export const floor = (value: number): number => {
  let found = value
  while (!isKept(found)) found = next(found, false)
  return found
}

/** The numbers from this one on (without it), up or down, that the server does not keep, until one that it does. */
export const unkept = (value: number, up: boolean): ReadonlyArray<number> => {
  const found: Array<number> = []
  for (let each = next(value, up); Number.isFinite(each) && !isKept(each); each = next(each, up)) found.push(each)
  return found
}
