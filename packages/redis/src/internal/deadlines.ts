/**
 * The one timeout mechanism: calls in the order in which they were begun, and a single timer for the oldest.
 */
import type { Call } from "./call.ts"

export interface Deadlines {
  readonly add: (call: Call) => void
  /** Whether it was there. */
  readonly delete: (call: Call) => boolean
  readonly size: () => number
  /** Takes all calls out. */
  readonly clear: () => ReadonlyArray<Call>
}

/** How late a timer is in a process that was held up, in milliseconds. */
const heldUp = 25

/** `expire` gets the calls whose time is over, oldest first; they are taken out already. */
export const make = (expire: (due: ReadonlyArray<Call>) => void): Deadlines => {
  const calls = new Set<Call>()
  let timer: ReturnType<typeof setTimeout> | undefined
  let immediate: ReturnType<typeof setImmediate> | undefined
  let timerAt = Number.POSITIVE_INFINITY
  let latest = 0
  /** Whether a later call can be due before an earlier one: redirected calls, and blocking ones, have other times. */
  let mixed = false

  const arm = (at: number, now: number): void => {
    if (timer !== undefined) clearTimeout(timer)
    timerAt = at
    timer = setTimeout(onTimer, Math.min(Math.max(1, Math.ceil(at - now)), 2 ** 31 - 1))
  }

  const onTimer = (): void => {
    // where this process was held up right after it wrote, the commands leave it only now: the server has a moment more
    if (performance.now() - timerAt > heldUp) timer = setTimeout(afterPoll, heldUp)
    else afterPoll()
  }

  const afterPoll = (): void => {
    timer = undefined
    // where this process was held up, answers may lie in the socket already: they are read before anything is given up
    immediate = setImmediate(sweep)
  }

  const sweep = (): void => {
    immediate = undefined
    timerAt = Number.POSITIVE_INFINITY
    const now = performance.now()
    const due: Array<Call> = []
    let next = Number.POSITIVE_INFINITY
    for (const call of calls) {
      if (call.deadline <= now) {
        due.push(call)
        calls.delete(call)
        continue
      }
      if (call.deadline < next) next = call.deadline
      if (!mixed) break
    }
    if (next !== Number.POSITIVE_INFINITY) arm(next, now)
    else {
      mixed = false
      latest = 0
    }
    if (due.length > 0) expire(due)
  }

  return {
    add: (call) => {
      calls.add(call)
      if (call.deadline >= latest) latest = call.deadline
      else mixed = true
      if (call.deadline < timerAt && immediate === undefined) arm(call.deadline, performance.now())
    },
    delete: (call) => calls.delete(call),
    size: () => calls.size,
    clear: () => {
      const all = [...calls]
      calls.clear()
      if (timer !== undefined) clearTimeout(timer)
      if (immediate !== undefined) clearImmediate(immediate)
      timer = undefined
      immediate = undefined
      timerAt = Number.POSITIVE_INFINITY
      mixed = false
      latest = 0
      return all
    }
  }
}
