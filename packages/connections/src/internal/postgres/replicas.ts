/**
 * Which of several servers a statement that only reads goes to: the least busy of those that could be reached last time.
 */
import { ConnectionError } from "@underlay/core/connection/Connection"
import type { Lease, Pool } from "../sql/pool.ts"

export interface Source<out A> {
  readonly pool: Pool<A>
  /** Asked only when no other can be reached. */
  readonly last: boolean
}

interface Seat<A> extends Source<A> {
  failures: number
  askAgainAt: number
}

const unreachable = (error: ConnectionError): boolean => {
  switch (error.reason) {
    case "Unavailable":
    case "Authentication":
    case "Throttled":
    case "NotFound":
    case "Unknown":
      return true
    case "Timeout":
      return error.method === "connect"
    default:
      return false
  }
}

/** A request for a session of any of them, as a pool takes requests. */
export const request = <A>(sources: ReadonlyArray<Source<A>>, now: () => number): Pool<A>["request"] => {
  const seats = sources.map((source): Seat<A> => ({ ...source, failures: 0, askAgainAt: 0 }))
  // The healthy first, the least busy of them before the others; those out of reach are better than none.
  const order = (): Array<Seat<A>> => {
    const at = now()
    const rank = (seat: Seat<A>) => (seat.last ? 1 : seat.askAgainAt > at ? 2 : 0)
    return [...seats].sort((a, b) => rank(a) - rank(b) || a.pool.load() - b.pool.load())
  }
  return (settle) => {
    const left = order()
    let withdraw: () => void = () => {}
    let withdrawn = false
    const next = (failure: ConnectionError | undefined): void => {
      const seat = left.shift()
      if (seat === undefined) {
        if (failure !== undefined) settle(failure)
        return
      }
      let settled = false
      const back = seat.pool.request((granted: Lease<A> | ConnectionError) => {
        settled = true
        if (!(granted instanceof ConnectionError)) {
          seat.failures = 0
          seat.askAgainAt = 0
          return settle(granted)
        }
        if (unreachable(granted)) {
          seat.failures++
          seat.askAgainAt = now() + Math.min(30_000, 500 * 2 ** Math.min(seat.failures, 6))
        }
        if (withdrawn) return
        // All are in use, and the caller has waited as long as may be.
        if (granted.reason === "Timeout" && granted.method === "acquire") settle(granted)
        else next(granted)
      })
      if (!settled) withdraw = back
    }
    next(undefined)
    return () => {
      withdrawn = true
      withdraw()
    }
  }
}
