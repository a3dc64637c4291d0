/**
 * One timer, by the clock of the fiber that asks for it: JavaScript's own under the live clock, a sleeping fiber under
 * any other, so that a test's clock drives it.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Runtime from "effect/Runtime"

/** The longest wait of a timer of JavaScript; a longer timeout never ends. */
const maxTimer = 2 ** 31 - 1

const liveClock = Context.get(DefaultServices.liveServices, Clock.Clock)

const noop = (): void => {}

/** Calls `task` after the time and returns what takes it back. A time too long for a timer never comes. */
export const schedule = (
  parent: Fiber.RuntimeFiber<unknown, unknown>,
  millis: number,
  task: () => void
): (() => void) => {
  if (millis > maxTimer) return noop
  const clock = Context.get(parent.currentDefaultServices, Clock.Clock)
  if (clock === liveClock) {
    const handle = setTimeout(task, millis)
    return () => clearTimeout(handle)
  }
  // Any other clock (a test's) is asked to sleep, in a fiber that hears of the test.
  const runtime = Runtime.make({
    context: parent.currentContext,
    runtimeFlags: Runtime.defaultRuntimeFlags,
    fiberRefs: parent.getFiberRefs()
  })
  const sleeper = Runtime.runFork(runtime, Effect.map(clock.sleep(Duration.millis(millis)), task))
  return () => sleeper.unsafeInterruptAsFork(sleeper.id())
}
