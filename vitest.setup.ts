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
import { assert, chai } from "vitest"

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
    within.add(one)
    const parts =
      one instanceof Map || one instanceof Set
        ? [...one].flat()
        : ArrayBuffer.isView(one)
          ? Object.keys(one)
          : Reflect.ownKeys(one).map((key) => Object.getOwnPropertyDescriptor(one, key)?.value as unknown)
    const all = parts.every(visit)
    within.delete(one)
    return all
  }
  return !visit(value)
}

const inPart = (value: unknown): unknown => {
  if (typeof value === "string") {
    return value.length <= mostCharacters ? value : `${value.slice(0, mostCharacters)}… (${value.length} characters)`
  }
  return isLarge(value)
    ? `in part: ${inspect(value, { customInspect: false, depth: 2, maxArrayLength: 20, maxStringLength: 500 })}`
    : value
}

const check = chai.Assertion.prototype.assert
chai.Assertion.prototype.assert = function (...args) {
  try {
    check.apply(this, args)
  } catch (error) {
    if (error instanceof chai.AssertionError) {
      for (const side of ["actual", "expected"] as const) {
        if (side in error) Object.assign(error, { [side]: inPart(Reflect.get(error, side)) })
      }
    }
    throw error
  }
}

FastCheck.configureGlobal({
  ...FastCheck.readConfigureGlobal(),
  interruptAfterTimeLimit: process.env["UNDERLAY_NIGHTLY"] === "1" ? 1_800_000 : 60_000,
  markInterruptAsFailure: true
})
