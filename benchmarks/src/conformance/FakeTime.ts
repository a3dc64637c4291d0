/**
 * A time that is moved by hand, in place of the process's timers and clocks: for libraries that know no clock.
 */
import type { ResilienceSuite } from "@underlay/core/testing"
import { Effect } from "effect"

interface Timer {
  readonly order: number
  readonly task: () => void
  readonly every: number | undefined
  at: number
  held: boolean
}

const real = { setImmediate: globalThis.setImmediate, dateNow: Date.now, nanos: process.hrtime.bigint }

/** Microtasks, ticks and whatever they lead to. */
const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => real.setImmediate(() => resolve(undefined)))
}

/** Replaces the process's timers and clocks, for good. */
export const install = (): ResilienceSuite.Time => {
  const timers = new Map<object, Timer>()
  const warnings: Array<string> = []
  let monotonic = 0
  let wall = real.dateNow()
  let order = 0

  const add = (task: () => void, millis: number, every: boolean): object => {
    const wait = Math.max(1, Number.isFinite(millis) ? millis : 1)
    const timer: Timer = { order: order++, task, at: monotonic + wait, every: every ? wait : undefined, held: true }
    const handle = {
      ref: () => {
        timer.held = true
        return handle
      },
      unref: () => {
        timer.held = false
        return handle
      },
      hasRef: () => timer.held
    }
    timers.set(handle, timer)
    return handle
  }
  const remove = (handle: unknown): void => {
    if (typeof handle === "object" && handle !== null) timers.delete(handle)
  }
  const set =
    (every: boolean) =>
    (task: (...args: ReadonlyArray<unknown>) => void, millis = 1, ...args: ReadonlyArray<unknown>): object =>
      add(() => task(...args), millis, every)

  Object.assign(globalThis, {
    setTimeout: set(false),
    setInterval: set(true),
    clearTimeout: remove,
    clearInterval: remove
  })
  Date.now = () => wall
  const nanos = real.nanos()
  Object.assign(process.hrtime, { bigint: () => nanos + BigInt(Math.round(monotonic * 1e6)) })
  process.on("warning", (warning) => warnings.push(warning.message))

  const due = (until: number): readonly [object, Timer] | undefined => {
    let first: readonly [object, Timer] | undefined
    for (const [handle, timer] of timers) {
      if (timer.at > until) continue
      if (first === undefined || timer.at < first[1].at || (timer.at === first[1].at && timer.order < first[1].order)) {
        first = [handle, timer]
      }
    }
    return first
  }
  const moveTo = (moment: number): void => {
    wall += moment - monotonic
    monotonic = moment
  }
  const advance = async (millis: number): Promise<void> => {
    await settle()
    const until = monotonic + millis
    for (let next = due(until); next !== undefined; next = due(until)) {
      const [handle, timer] = next
      moveTo(Math.max(monotonic, timer.at))
      if (timer.every === undefined) timers.delete(handle)
      else timer.at += timer.every
      timer.task()
      await settle()
    }
    moveTo(until)
  }

  return {
    now: () => wall,
    advance: (millis) => Effect.promise(() => advance(millis)),
    step: (millis) =>
      Effect.sync(() => {
        wall += millis
      }),
    timers: () => ({ pending: timers.size, holding: [...timers.values()].filter((timer) => timer.held).length }),
    warnings: () => warnings
  }
}
