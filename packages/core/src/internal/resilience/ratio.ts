/**
 * A number as a fraction of whole numbers, so that what is counted by it can be counted exactly.
 */

/** The simplest fraction that is this number to twelve digits: 0.2 is [1, 5], and what was made by 1 / 3 is [1, 3]. */
export const of = (value: number): readonly [numerator: number, denominator: number] => {
  let before: readonly [number, number] = [0, 1]
  let found: readonly [number, number] = [1, 0]
  let rest = value
  for (;;) {
    const whole = Math.floor(rest)
    const next = [whole * found[0] + before[0], whole * found[1] + before[1]] as const
    if (!Number.isSafeInteger(next[0]) || !Number.isSafeInteger(next[1])) return found
    before = found
    found = next
    if (Math.abs(found[0] / found[1] - value) <= value * 1e-12) return found
    rest = 1 / (rest - whole)
  }
}

/** The fraction in lowest terms. */
export const reduce = (numerator: number, denominator: number): readonly [numerator: number, denominator: number] => {
  let a = numerator
  let b = denominator
  while (b !== 0) [a, b] = [b, a % b]
  return [numerator / a, denominator / a]
}
