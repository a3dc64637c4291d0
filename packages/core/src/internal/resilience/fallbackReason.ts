/**
 * How the error of a fallback that failed too tells of the error that led to it: as its `cause`.
 */
import * as Cause from "effect/Cause"
import * as Inspectable from "effect/Inspectable"

/** Answered by such errors with what led to them, also through what is wrapped around them. */
const marker = Symbol.for("@underlay/core/Fallback/reason")

const isObject = (u: unknown): u is object => typeof u === "object" && u !== null

/** What led to the fallback that failed with this error. */
export const reasonOf = (error: unknown): unknown =>
  isObject(error) ? (error as { readonly [marker]?: unknown })[marker] : undefined

/** The error with an identity of its own, as fallbacks may fail with a constant. A cause that it has already it keeps. */
const caused = <T extends object>(error: T, reason: unknown): T =>
  new Proxy(error, {
    has: (target, key) => key === "cause" || Reflect.has(target, key),
    get: (target, key) =>
      key === marker
        ? reason
        : key === "cause"
          ? causeOf(target, reason)
          : // Inspectors that are handed the proxy by the error's own method would ask it for ever.
            key === Inspectable.NodeInspectSymbol
            ? () => target
            : Reflect.get(target, key, target)
  })

/** The cause of its own; if that is fixed to be none, no other can be shown in its place. */
const causeOf = (error: object, reason: unknown): unknown => {
  const own: unknown = Reflect.get(error, "cause", error)
  if (own !== undefined && own !== null) return own
  const property = Reflect.getOwnPropertyDescriptor(error, "cause")
  return property?.configurable === false && property.writable !== true && property.get === undefined ? own : reason
}

const isSame = (left: unknown, right: unknown): boolean => Cause.originalError(left) === Cause.originalError(right)

/** The cause of a fallback's failure with the error that led to it. What the fallback only passes on stays as it was. */
export const withReason = <E2>(
  cause: Cause.Cause<E2>,
  error: unknown,
  original: Cause.Cause<unknown>
): Cause.Cause<E2> => {
  let passed = false
  let lost = false
  const explain = <T>(each: T): T => {
    if (isSame(each, error)) {
      passed = true
      return each
    }
    return isObject(each) ? caused(each, error) : each
  }
  const explained = Cause.match(cause, {
    onEmpty: cause,
    onFail: (each): Cause.Cause<E2> => {
      if (!isObject(each) && each !== error) lost = true
      return Cause.fail(explain(each))
    },
    onDie: (each): Cause.Cause<E2> => Cause.die(explain(each)),
    onInterrupt: (by): Cause.Cause<E2> => Cause.interrupt(by),
    onSequential: (left, right): Cause.Cause<E2> => Cause.sequential(left, right),
    onParallel: (left, right): Cause.Cause<E2> => Cause.parallel(left, right)
  })
  // The error itself came through: so does all that was known of it.
  if (passed && Cause.isFailType(cause)) return original as Cause.Cause<E2>
  // What is no object cannot tell of anything: both stand in the cause, the fallback's failure first.
  return lost ? Cause.sequential(explained, Cause.fail(error) as Cause.Cause<never>) : explained
}
