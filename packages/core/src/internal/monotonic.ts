/**
 * The monotonic part of a clock in milliseconds: it goes on evenly whatever the wall clock is set to.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"

const live = Context.get(DefaultServices.liveServices, Clock.Clock)

/** Reads the clock. Under the live one it is the same time as `performance.now()`, which makes no big integer each time. */
export const millis = (clock: Clock.Clock): (() => number) =>
  clock === live ? () => performance.now() : () => Number(clock.unsafeCurrentTimeNanos()) / 1e6
