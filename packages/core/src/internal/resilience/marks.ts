/**
 * What policies know about an error object besides what it says itself: that retries were spent on it, and on which
 * attempts. Kept beside the object, so that it stays as its maker made it.
 */
import * as Inspectable from "effect/Inspectable"
import { originalOf } from "../connection/withheld.ts"

const exhausted = new WeakSet<object>()
const attempts = new WeakMap<object, ReadonlyArray<unknown>>()
const maxDepth = 8

const isObject = (u: unknown): u is object => typeof u === "object" && u !== null

/** The first of the error and what caused it that `test` holds for. */
const findInChain = (error: unknown, test: (error: object) => boolean): object | undefined => {
  let current = originalOf(error)
  for (let depth = 0; depth < maxDepth && isObject(current); depth++) {
    if (test(current)) return current
    // What stands for the error of a driver is not the object that was marked.
    current = originalOf((current as { readonly cause?: unknown }).cause)
  }
  return undefined
}

// What stands for an error is marked as that error: it is looked for there.
export const exhaust = (error: unknown): void => {
  const marked = originalOf(error)
  if (isObject(marked)) exhausted.add(marked)
}

export const isExhausted = (error: unknown): boolean => findInChain(error, (each) => exhausted.has(each)) !== undefined

/** Whether the object itself has been marked by a call. */
export const isMarked = (error: unknown): boolean => {
  const marked = originalOf(error)
  return isObject(marked) && (exhausted.has(marked) || attempts.has(marked))
}

export const setAttempts = (error: unknown, records: ReadonlyArray<unknown>): void => {
  const marked = originalOf(error)
  if (isObject(marked)) attempts.set(marked, records)
}

export const attemptsOf = (error: unknown): ReadonlyArray<unknown> => {
  const holder = findInChain(error, (each) => attempts.has(each))
  return (holder === undefined ? undefined : attempts.get(holder)) ?? []
}

/**
 * An error with an identity of its own that reads as the given one: a constant that every call fails with must not carry
 * the marks of one call to the next. (Effect does the same to the errors that fail under a span.)
 */
export const individual = <E>(error: E): E =>
  isObject(error)
    ? (new Proxy(error, {
        // Inspectors that are handed the proxy by the error's own method would ask it for ever.
        get: (target, key) => (key === Inspectable.NodeInspectSymbol ? () => target : Reflect.get(target, key, target))
      }) as E)
    : error
