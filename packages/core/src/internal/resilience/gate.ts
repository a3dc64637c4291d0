/**
 * What limits calls, as the pipeline sees it: a place is taken at once or waited for, and failing that refused.
 */
import type * as Effect from "effect/Effect"
import type { Restore } from "./timed.ts"

/** Who goes first where calls wait; first come, first served within each. */
export type Priority = "high" | "normal" | "low"

/** How a place is asked for. */
export interface Entry {
  readonly weight: number
  readonly priority: Priority
}

/** A limit that a call passes before it is made. */
export interface Gate<Rejection> {
  /** Takes `weight` places at once, if there are and nobody waits for them before. */
  readonly tryEnter: (now: number, weight: number) => boolean
  /**
   * Waits for places. To be run where nothing can be interrupted: only the wait is. On success the places are held; on
   * failure or interruption they are not, and whoever waits behind moves up. It never waits past `deadline` (milliseconds
   * since 1970, infinite for none) and refuses at once where it knows that it would have to.
   */
  readonly enter: (restore: Restore, deadline: number, entry: Entry) => Effect.Effect<void, Rejection>
}
