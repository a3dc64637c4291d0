/**
 * How an inner policy tells the one around it that it has spent its attempts, whatever becomes of its error on the way
 * out. Kept in the context, so that it belongs to one call.
 */
import * as Context from "effect/Context"

/** One call of a policy. */
export interface Frame {
  /** Which attempt is under way, from 1; what an earlier one still says does not count. */
  attempt: number
  /** Whether the inner policy that ended last in this attempt had spent its attempts. */
  exhausted: boolean
}

/** The call that is under way. */
export class Current extends Context.Reference<Current>()("@underlay/core/internal/RetryFrame", {
  defaultValue: (): Frame | undefined => undefined
}) {}
