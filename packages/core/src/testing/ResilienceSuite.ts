/**
 * What every library of resilience should do: a case for each fault that users of some library complained of or that was
 * reproduced in one, and for what is praised. The cases are data and run on anything that has a `Driver`, so that
 * libraries can be compared.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as breaking from "../internal/conformance/breaking.ts"
import * as calling from "../internal/conformance/calling.ts"
import type * as model from "../internal/conformance/driver.ts"
import * as own from "../internal/conformance/own.ts"
import * as ownPolicies from "../internal/conformance/ownPolicies.ts"
import * as underlay from "../internal/conformance/underlay.ts"
import * as Suite from "./Suite.ts"

/**
 * A part that a library may lack. A case that needs what is not there does not apply.
 *
 * @since 0.1.0
 * @category models
 */
export type Feature = model.Feature

/**
 * One behaviour: a stable id, the words for it, where it was complained of, what it needs, and the proof.
 *
 * @since 0.1.0
 * @category models
 */
export type Case = model.Case

/**
 * A library as the cases see it.
 *
 * @since 0.1.0
 * @category models
 */
export type Driver = model.Driver

/**
 * A breaker, retry, timeout and places round a call, as a driver makes them.
 *
 * @since 0.1.0
 * @category models
 */
export type Guard = model.Guard

/**
 * The parts of a guard; those that are not named are not there. Durations in milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export type Settings = model.Settings

/**
 * What is guarded. It may throw at once, and should end when the signal is aborted.
 *
 * @since 0.1.0
 * @category models
 */
export type Leaf = model.Leaf

/**
 * A call under way.
 *
 * @since 0.1.0
 * @category models
 */
export type Call = model.Call

/**
 * What is known of the work of one call.
 *
 * @since 0.1.0
 * @category models
 */
export type CallOptions = model.CallOptions

/**
 * How a call ended.
 *
 * @since 0.1.0
 * @category models
 */
export type Result = model.Result

/**
 * Why a call failed.
 *
 * @since 0.1.0
 * @category models
 */
export type Kind = model.Kind

/**
 * @since 0.1.0
 * @category models
 */
export type State = model.State

/**
 * The time that everything goes by: that of a test.
 *
 * @since 0.1.0
 * @category models
 */
export type Time = model.Time

/**
 * How a case went: `none` where the library lacks what it needs, with the problem where it failed.
 *
 * @since 0.1.0
 * @category models
 */
export interface Outcome {
  readonly id: string
  readonly outcome: "passed" | "failed" | "none"
  readonly problem?: string | undefined
}

/**
 * All cases, by theme.
 *
 * @since 0.1.0
 * @category testing
 */
export const cases: ReadonlyArray<Case> = [
  ...calling.once,
  ...breaking.cases,
  ...calling.cases,
  ...own.cases,
  ...ownPolicies.cases
]

/**
 * This library, by a time of one's own. Its calls are effects, or with `promises` functions of an abort signal, which a
 * policy runs without a fiber of their own.
 *
 * @since 0.1.0
 * @category testing
 */
export const driver = (time: Time, calls: "effects" | "promises" = "effects"): Driver => underlay.driver(time, calls)

/**
 * Whether the library has what the case needs.
 *
 * @since 0.1.0
 * @category predicates
 */
export const applies = (one: Case, to: Driver): boolean => one.needs.every((feature) => to.features.has(feature))

/**
 * Runs one case. Never fails: look at the outcome.
 *
 * @since 0.1.0
 * @category testing
 */
export const run = (one: Case, on: Driver): Effect.Effect<Outcome> =>
  applies(one, on)
    ? Effect.map(
        Effect.exit(Effect.scoped(one.run(on))),
        (exit): Outcome =>
          Exit.isSuccess(exit)
            ? { id: one.id, outcome: "passed" }
            : { id: one.id, outcome: "failed", problem: problemOf(exit.cause) }
      )
    : Effect.succeed({ id: one.id, outcome: "none" })

const problemOf = (cause: Cause.Cause<unknown>): string => {
  const error = Cause.squash(cause)
  return error instanceof Suite.SuiteFailure ? error.message : Cause.pretty(cause)
}
