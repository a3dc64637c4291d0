/**
 * What the worker processes share: the word of the parent, the one clock of the machine, a clock of the day that jumps,
 * and random choices by a seed.
 */
import * as Fs from "node:fs"
import * as Readline from "node:readline"
import { Clock, Effect } from "effect"

/** Microseconds of the machine's monotonic clock, which all processes share. */
export const now = (): number => Number(process.hrtime.bigint()) / 1_000

/** Says a line to the parent, before anything else happens. */
export const say = (line: unknown): void => {
  const bytes = Buffer.from(`${typeof line === "string" ? line : JSON.stringify(line)}\n`)
  for (let sent = 0; sent < bytes.length; ) {
    try {
      sent += Fs.writeSync(1, bytes, sent)
    } catch (error) {
      // the pipe is full: the parent reads on
      if (!(error instanceof Error && "code" in error && error.code === "EAGAIN")) throw error
    }
  }
}

/** Hears the lines of the parent. */
export const listen = (hear: (line: string) => void): void => {
  Readline.createInterface({ input: process.stdin }).on("line", hear)
}

/** Numbers from 0 to below 1, the same for the same seed. */
export const randomOf = (seed: number): (() => number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** A clock whose time of day can be set. What it measures by its nanoseconds is not concerned, as with a real one. */
export const makeClock = (): { readonly clock: Clock.Clock; readonly jump: (millis: number) => void } => {
  const real = Clock.make()
  let offset = 0
  const millis = () => real.unsafeCurrentTimeMillis() + offset
  return {
    clock: {
      ...real,
      [Clock.ClockTypeId]: Clock.ClockTypeId,
      unsafeCurrentTimeMillis: millis,
      unsafeCurrentTimeNanos: () => real.unsafeCurrentTimeNanos(),
      currentTimeMillis: Effect.sync(millis),
      currentTimeNanos: real.currentTimeNanos,
      sleep: (duration) => real.sleep(duration)
    },
    jump: (by) => {
      offset = by
    }
  }
}

/** Runs a worker to its end, all of it by the clock that jumps. */
export const main = (program: Effect.Effect<void, unknown>, clock: Clock.Clock): void => {
  Effect.runPromise(Effect.withClock(program, clock)).then(
    () => process.exit(0),
    (error) => {
      process.stderr.write(String(error))
      process.exit(1)
    }
  )
}
