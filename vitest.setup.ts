/**
 * Properties end: one that fails on something large could otherwise make it smaller without end, and nobody would see it.
 *
 * Chai takes `Option.none()` for deeply equal to any `Option.some(…)`: an assertion on an option could not fail. Deep
 * comparisons see options as plain data here.
 *
 * A failure is printed, whatever it is about. The runner writes out all that hangs on the two values, and what several
 * others refer to once for each: of a client, a fiber or a layer that takes minutes and all memory, and nobody learns
 * which test it was. What is too large is told in part here.
 */
import { inspect } from "node:util"
import { FastCheck, Option } from "effect"
import { assert, beforeEach } from "vitest"
import { getFn, setFn } from "vitest/suite"

const plain = (value: unknown): unknown => {
  if (Option.isOption(value)) {
    return Option.isNone(value)
      ? { _id: "Option", _tag: "None" }
      : { _id: "Option", _tag: "Some", value: plain(value.value) }
  }
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Reflect.ownKeys(value).map((key) => [key, plain(Reflect.get(value, key))]))
  }
  return value
}

const seen =
  (compare: (actual: unknown, expected: unknown, message?: string) => void) =>
  (actual: unknown, expected: unknown, message?: string): void =>
    compare(plain(actual), plain(expected), message)

Object.assign(assert, {
  deepEqual: seen(assert.deepEqual),
  deepStrictEqual: seen(assert.deepStrictEqual),
  notDeepEqual: seen(assert.notDeepEqual),
  notDeepStrictEqual: seen(assert.notDeepStrictEqual)
})

/** How many values are written out at most, and how many characters of a text. */
const mostValues = 5_000
const mostCharacters = 20_000

const isLarge = (value: unknown): boolean => {
  let left = mostValues
  const within = new Set<object>()
  const visit = (one: unknown): boolean => {
    if (--left < 0) return false
    if (typeof one === "string") left -= one.length / (mostCharacters / mostValues)
    if (typeof one !== "object" || one === null || within.has(one)) return left >= 0
    if (ArrayBuffer.isView(one)) {
      left -= one.byteLength
      return left >= 0
    }
    const size = one instanceof Map || one instanceof Set ? one.size : Array.isArray(one) ? one.length : 0
    if (size > mostValues) return false
    within.add(one)
    const parts =
      one instanceof Map || one instanceof Set
        ? [...one].flat()
        : Reflect.ownKeys(one).map((key) => Object.getOwnPropertyDescriptor(one, key)?.value as unknown)
    const all = parts.every(visit)
    within.delete(one)
    return all
  }
  return !visit(value)
}

const inPart = (value: unknown): string =>
  `in part: ${inspect(value, { customInspect: false, depth: 2, maxArrayLength: 20, maxStringLength: 500 })}`

/** What hangs on an error is read through getters and prototypes: only of plain data that ends. */
const isPlain = (value: unknown, depth = 0): boolean =>
  typeof value !== "object" ||
  value === null ||
  (depth < 20 &&
    (Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype) &&
    Object.values(value).every((one) => isPlain(one, depth + 1)))

/**
 * In a stack without frames the runner looks for places by an expression that takes hours for a line with many quotes, as
 * what `Effect.flip` fails with has. Such a stack says no more than the message does.
 */
const withShortLines = (name: string, stack: string): string => {
  const lines = stack.split("\n")
  if (!lines.some((line) => /^\s*at /.test(line))) return name
  const some = lines.length <= 200 ? lines : [...lines.slice(0, 100), "…", ...lines.slice(-100)]
  return some.map((line) => (line.length <= 500 ? line : `${line.slice(0, 500)}…`)).join("\n")
}

const bounded = (error: unknown): unknown => {
  const seen = new Set<unknown>()
  for (let one: unknown = error; one instanceof Error && !seen.has(one); one = one.cause) {
    seen.add(one)
    const stack = one.stack
    if (stack !== undefined) Reflect.set(one, "stack", withShortLines(one.name, stack))
    for (const key of Object.getOwnPropertyNames(one)) {
      const value: unknown = Object.getOwnPropertyDescriptor(one, key)?.value
      const text = typeof value === "string" && value.length > mostCharacters
      if (text) Reflect.set(one, key, `${value.slice(0, mostCharacters)}… (${value.length} characters)`)
      else if (isLarge(value)) Reflect.set(one, key, inPart(value))
      else if (!(key === "actual" || key === "expected" || value instanceof Error || isPlain(value))) {
        Reflect.set(one, key, inPart(value))
      }
    }
  }
  return error
}

beforeEach(({ task }) => {
  const run = getFn(task)
  setFn(task, () =>
    Promise.resolve()
      .then(run)
      .catch((error: unknown) => Promise.reject(bounded(error)))
  )
})

FastCheck.configureGlobal({
  ...FastCheck.readConfigureGlobal(),
  interruptAfterTimeLimit: process.env["UNDERLAY_NIGHTLY"] === "1" ? 1_800_000 : 60_000,
  markInterruptAsFailure: true
})
