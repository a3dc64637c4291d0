/** Which of the names that there are was perhaps meant by one that there is not. */
import { canonical } from "./settingsEnvironment.ts"

/** The name that was perhaps meant, to be put behind a complaint; nothing where none is near. */
export const nearest = (name: string, names: Iterable<string>): string => {
  const wanted = canonical(name)
  let best: string | undefined
  let least = Math.max(2, Math.floor(wanted.length / 3)) + 1
  for (const one of names) {
    const other = canonical(one)
    const steps = other.startsWith(wanted) && wanted.length > 2 ? 1 : distance(wanted, other)
    if (steps < least) {
      least = steps
      best = one
    }
  }
  return best === undefined ? "" : ` (did you mean ${best}?)`
}

/** In how many steps one text becomes another: letters put in, left out, replaced or swapped with the next. */
const distance = (a: string, b: string): number => {
  let before: Array<number> = []
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      next.push(
        Math.min(
          (row[j] ?? 0) + 1,
          (next[j - 1] ?? 0) + 1,
          (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1),
          swapped ? (before[j - 2] ?? 0) + 1 : Number.POSITIVE_INFINITY
        )
      )
    }
    before = row
    row = next
  }
  return row[b.length] ?? 0
}
