/**
 * What the drivers of libraries of promises share: a call and how it ended.
 */
import type { ResilienceSuite } from "@underlay/core/testing"
import { Effect } from "effect"

/** Runs work under a guard, given up by the signal where there is one. */
export type Run = (leaf: ResilienceSuite.Leaf, caller: AbortSignal | undefined) => Promise<unknown>

/** The caller gave up: what the work then fails with, told apart from a timeout's abortion. */
export class GivenUp extends Error {
  override readonly name: string = "AbortError"
}

/** A guard that can stand round another. */
export interface Runs extends ResilienceSuite.Guard {
  readonly execute: Run
}

const executes = (guard: ResilienceSuite.Guard): guard is Runs => "execute" in guard

export const start =
  (time: ResilienceSuite.Time, execute: Run, kindOf: (error: unknown) => ResilienceSuite.Kind) =>
  (leaf: ResilienceSuite.Leaf, options?: ResilienceSuite.CallOptions): Effect.Effect<ResilienceSuite.Call> =>
    Effect.sync(() => {
      const controller = new AbortController()
      let result: ResilienceSuite.Result | undefined
      execute(leaf, options?.unwatched === true ? undefined : controller.signal).then(
        (value) => {
          result = { ok: true, value, at: time.now() }
        },
        (error: unknown) => {
          result = {
            ok: false,
            kind: controller.signal.aborted ? "cancelled" : kindOf(error),
            error,
            at: time.now()
          }
        }
      )
      return { result: () => result, cancel: Effect.sync(() => controller.abort()) }
    })

/** Guards round each other, outermost first: a call of each is the work of the one before. */
export const nest =
  (time: ResilienceSuite.Time, kindOf: (error: unknown) => ResilienceSuite.Kind): ResilienceSuite.Driver["nest"] =>
  (guards) => {
    const [outer] = guards
    const execute: Run = (leaf, caller) => {
      const [first, ...rest] = guards.filter(executes)
      if (first === undefined) return Promise.reject(new Error("guards of another library"))
      const inner = rest.reduceRight<ResilienceSuite.Leaf>(
        (work, guard) => (signal) => guard.execute(work, signal),
        leaf
      )
      return first.execute(inner, caller)
    }
    return { ...outer, start: start(time, execute, kindOf) }
  }
