/**
 * A random number for code that is not an effect: from the `Random` of the fiber that runs at this moment, so that a test
 * that sets it decides here too.
 */
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Random from "effect/Random"

/** At least 0 and below 1. Outside of any fiber it is the default `Random`'s. */
export const currentRandom = (): number => {
  const fiber = Option.getOrUndefined(Fiber.getCurrentFiber())
  const services = fiber === undefined ? DefaultServices.liveServices : fiber.currentDefaultServices
  // `Random` has no other way in than its effects; these are single steps.
  return Effect.runSync(Context.get(services, Random.Random).next)
}
