/**
 * The call of an outside service that is under way, for the transport below it: whose span attempts belong to, and how
 * many there were.
 */
import * as Context from "effect/Context"

/** One call of one client. */
export interface CurrentCall {
  /** The client whose call it is. */
  readonly owner: object
  readonly operation: string
  /** Requests that the transport has sent under spans of its own. */
  requests: number
  /** Set when it has ended: what still runs of it, and what it left in the background, makes calls of its own. */
  over: boolean
}

/** The innermost call that is under way. */
export class Current extends Context.Reference<Current>()("@underlay/core/internal/CurrentCall", {
  defaultValue: (): CurrentCall | undefined => undefined
}) {}
