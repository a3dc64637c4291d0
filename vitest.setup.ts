/**
 * Properties end: one that fails on something large could otherwise make it smaller without end, and nobody would see it.
 *
 * Chai takes `Option.none()` for deeply equal to any `Option.some(…)`: an assertion on an option could not fail. Deep
 * comparisons see options as plain data here.
 */
import { FastCheck, Option } from "effect"
import { assert } from "vitest"

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

FastCheck.configureGlobal({
  ...FastCheck.readConfigureGlobal(),
  interruptAfterTimeLimit: process.env["UNDERLAY_NIGHTLY"] === "1" ? 1_800_000 : 60_000,
  markInterruptAsFailure: true
})
