/**
 * What a behavioural suite is: named Effects as data, bound to no test runner. A port has one suite, and every adapter
 * of the port passes it, ours and yours.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Equal from "effect/Equal"
import * as Exit from "effect/Exit"
import * as Inspectable from "effect/Inspectable"
import * as Schema from "effect/Schema"

/**
 * One behaviour that an adapter must show. `run` succeeds when the adapter shows it and fails with `SuiteFailure` when
 * it does not; any other failure or defect is a failed case too. `requires` names the capabilities without which the
 * case does not apply.
 *
 * @since 0.1.0
 * @category models
 */
export interface Case<out Capability extends string, out R> {
  readonly name: string
  readonly requires: ReadonlyArray<Capability>
  readonly run: Effect.Effect<void, unknown, R>
}

/**
 * The behaviours of one port. `R` is what the cases need: the port's tag, and what the suite's own options need.
 *
 * @since 0.1.0
 * @category models
 */
export interface Suite<out Capability extends string, out R> {
  readonly name: string
  readonly cases: ReadonlyArray<Case<Capability, R>>
}

/**
 * How one case went, as `run` reports it.
 *
 * @since 0.1.0
 * @category models
 */
export interface CaseResult {
  readonly name: string
  readonly outcome: "passed" | "failed" | "not-applicable"
  /** What failed, printed. */
  readonly problem?: string
}

/**
 * An expectation that did not hold. `expected` and `actual` are printed values.
 *
 * @since 0.1.0
 * @category errors
 */
export class SuiteFailure extends Schema.TaggedError<SuiteFailure>("@underlay/core/testing/SuiteFailure")(
  "SuiteFailure",
  {
    expectation: Schema.String,
    expected: Schema.String,
    actual: Schema.String
  }
) {
  override get message(): string {
    return `${this.expectation}: expected ${this.expected}, got ${this.actual}`
  }
}

/**
 * Makes a suite of cases.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <Capability extends string, R>(
  name: string,
  cases: ReadonlyArray<Case<Capability, R>>
): Suite<Capability, R> => ({ name, cases })

/**
 * Makes a case that every adapter must pass.
 *
 * @since 0.1.0
 * @category constructors
 */
export const test = <E, R>(name: string, run: Effect.Effect<void, E, R>): Case<never, R> => ({
  name,
  requires: [],
  run
})

/**
 * Makes a case for the adapters that have every capability of `requires`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const testWith = <Capability extends string, E, R>(
  name: string,
  requires: ReadonlyArray<Capability>,
  run: Effect.Effect<void, E, R>
): Case<Capability, R> => ({ name, requires, run })

/**
 * The cases that apply to an adapter with these capabilities, in order.
 *
 * ```ts
 * for (const one of Suite.applicable(suite, ["expiry"])) {
 *   it.effect(one.name, () => one.run.pipe(Effect.provide(MyStore.layer)))
 * }
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const applicable = <Capability extends string, R>(
  suite: Suite<Capability, R>,
  capabilities: ReadonlyArray<Capability>
): ReadonlyArray<Case<Capability, R>> =>
  suite.cases.filter((one) => one.requires.every((capability) => capabilities.includes(capability)))

/**
 * Runs a suite one case after another without a test runner and reports each case. Never fails: look at the outcomes.
 *
 * @since 0.1.0
 * @category combinators
 */
export const run = <Capability extends string, R>(
  suite: Suite<Capability, R>,
  capabilities: ReadonlyArray<Capability>
): Effect.Effect<ReadonlyArray<CaseResult>, never, R> => {
  const apply = new Set(applicable(suite, capabilities))
  return Effect.forEach(suite.cases, (one) => {
    if (!apply.has(one)) return Effect.succeed<CaseResult>({ name: one.name, outcome: "not-applicable" })
    return Effect.map(
      Effect.exit(one.run),
      (exit): CaseResult =>
        Exit.isSuccess(exit)
          ? { name: one.name, outcome: "passed" }
          : { name: one.name, outcome: "failed", problem: Cause.pretty(exit.cause) }
    )
  })
}

/**
 * Fails unless both values are equal in structure. Values of Effect (`Option`, `Duration`, …) are compared by `Equal`,
 * plain data by its content.
 *
 * @since 0.1.0
 * @category combinators
 */
export const equal = <A>(expectation: string, actual: A, expected: A): Effect.Effect<void, SuiteFailure> =>
  same(actual, expected) ? Effect.void : failure(expectation, actual, show(expected))

/**
 * Fails unless `condition` holds.
 *
 * @since 0.1.0
 * @category combinators
 */
export const isTrue = (expectation: string, condition: boolean): Effect.Effect<void, SuiteFailure> =>
  condition ? Effect.void : failure(expectation, condition, "true")

/**
 * Runs `effect`, which must fail with a typed error that `matches` accepts, and gives that error back.
 *
 * @since 0.1.0
 * @category combinators
 */
export const fails = <A, E, R>(
  expectation: string,
  effect: Effect.Effect<A, E, R>,
  matches: (error: E) => boolean
): Effect.Effect<E, SuiteFailure, R> =>
  Effect.flatMap(Effect.either(effect), (result) => {
    if (Either.isRight(result)) return failure(expectation, result.right, "a typed failure")
    return matches(result.left) ? Effect.succeed(result.left) : failure(expectation, result.left, "another failure")
  })

const failure = (expectation: string, actual: unknown, expected: string): Effect.Effect<never, SuiteFailure> =>
  Effect.fail(new SuiteFailure({ expectation, expected, actual: show(actual) }))

const show = (value: unknown): string => {
  const text = Inspectable.toStringUnknown(value, 0)
  return text.length > 2_000 ? `${text.slice(0, 2_000)}…` : text
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null

const same = (a: unknown, b: unknown): boolean => {
  if (Object.is(a, b) || Equal.equals(a, b)) return true
  if (!isRecord(a) || !isRecord(b)) return false
  if (Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) return false
  if (a instanceof Date && b instanceof Date) return a.getTime() === b.getTime()
  if (a instanceof Uint8Array && b instanceof Uint8Array) {
    return a.length === b.length && a.every((byte, index) => byte === b[index])
  }
  if (a instanceof Map && b instanceof Map) {
    return a.size === b.size && [...a].every(([key, value]) => b.has(key) && same(value, b.get(key)))
  }
  if (a instanceof Set && b instanceof Set) return a.size === b.size && [...a].every((value) => b.has(value))
  const keys = Object.keys(a)
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]))
}
