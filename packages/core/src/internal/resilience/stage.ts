/**
 * Stages of one's own in a policy: what they are given, and their metrics.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Timeout from "../../resilience/Timeout.ts"
import type { Outcome, PolicyMetrics } from "./policyMetrics.ts"
import { Rejection } from "./rejection.ts"

/** What a stage is told of what it goes round. */
export interface Info {
  /** The name of the policy. */
  readonly policy: string
  /** Which attempt it is, from 1; for a stage round the whole call, 1. */
  readonly attempt: number
}

/** Where a stage stands. */
export type Position = "call" | "attempt" | "inner"

/** Refused by a stage of one's own: a plain object without a stack, like the other refusals. */
export class StageRejected extends Rejection {
  readonly _tag = "StageRejected"
  readonly stage: string
  readonly reason: string
  readonly retryAfter: Duration.Duration | undefined

  constructor(options: {
    readonly service: string
    readonly stage: string
    readonly reason: string
    readonly retryAfter?: Duration.Duration | undefined
  }) {
    super(options.service)
    this.stage = options.stage
    this.reason = options.reason
    this.retryAfter = options.retryAfter
  }
  override get message(): string {
    const when = this.retryAfter === undefined ? "" : `, ask again in ${Duration.format(this.retryAfter)}`
    return `${this.service}: refused by ${this.stage}: ${this.reason}${when}`
  }
}

/** A stage as the pipeline runs it. */
export interface Stage {
  readonly name: string
  readonly at: Position
  readonly apply: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    info: Info,
    metrics: PolicyMetrics | undefined
  ) => Effect.Effect<A, E | StageRejected, R>
}

/** The stages of a policy by where they stand, outermost first. */
export interface Around {
  readonly call: ReadonlyArray<Stage>
  readonly attempt: ReadonlyArray<Stage>
  readonly inner: ReadonlyArray<Stage>
}

export const around = (stages: ReadonlyArray<Stage>): Around => ({
  call: stages.filter((each) => each.at === "call"),
  attempt: stages.filter((each) => each.at === "attempt"),
  inner: stages.filter((each) => each.at === "inner")
})

/** Counts and times what a stage makes of an effect, and its own refusals among those of the policy. */
export const measured = <A, E, R>(
  { at = "attempt", name }: { readonly name: string; readonly at?: Position | undefined },
  effect: Effect.Effect<A, E, R>,
  metrics: PolicyMetrics
): Effect.Effect<A, E, R> =>
  Effect.withFiberRuntime((fiber) => {
    const clock = Context.get(fiber.currentDefaultServices, Clock.Clock)
    const started = clock.unsafeCurrentTimeMillis()
    return Effect.onExit(effect, (exit) =>
      Effect.sync(() => {
        const error = exit._tag === "Success" ? undefined : Option.getOrUndefined(Cause.failureOption(exit.cause))
        metrics.stage(name, outcomeOf(exit, error), clock.unsafeCurrentTimeMillis() - started)
        if (!(error instanceof StageRejected) || error.stage !== name) return
        metrics.rejected("stage")
        // Inside an attempt it is the attempt's to count.
        if (at === "attempt") metrics.attempt("rejected")
      })
    )
  })

const outcomeOf = (exit: Exit.Exit<unknown, unknown>, error: unknown): Outcome => {
  if (exit._tag === "Success") return "success"
  if (error === undefined) return Cause.isDie(exit.cause) || Cause.isFailure(exit.cause) ? "failure" : "cancelled"
  if (Predicate.hasProperty(error, "rejection") && error.rejection === true) return "rejected"
  return error instanceof Timeout.CallTimeout ? "timeout" : "failure"
}
