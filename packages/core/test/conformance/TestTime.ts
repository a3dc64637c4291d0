/**
 * The time of the conformance cases by `TestClock`: sleeps that were given up are not counted as timers, which the clock
 * itself does not know.
 */
import { ResilienceSuite } from "@underlay/core/testing"
import { Clock, Context, DefaultServices, Duration, Effect, TestClock } from "effect"

/** Runs the case on this library; what it warns of is heard. */
export const run = (
  one: ResilienceSuite.Case,
  calls: "effects" | "promises" = "effects"
): Effect.Effect<void, unknown> =>
  Effect.scoped(
    Effect.gen(function* () {
      const clock = yield* Effect.clock
      const warnings: Array<string> = []
      const listen = (warning: Error): void => {
        warnings.push(warning.message)
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => process.on("warning", listen)),
        () => Effect.sync(() => process.off("warning", listen))
      )
      let pending = 0
      let stepped = 0
      const now = (): number => clock.unsafeCurrentTimeMillis() + stepped
      // Whatever else a test's clock can do, it still can.
      const counting: Clock.Clock = Object.create(clock, {
        unsafeCurrentTimeMillis: { value: now },
        currentTimeMillis: { value: Effect.sync(now) },
        sleep: {
          value: (duration: Duration.Duration) =>
            Effect.acquireUseRelease(
              Effect.sync(() => pending++),
              () => clock.sleep(duration),
              () => Effect.sync(() => pending--)
            )
        }
      })
      const time: ResilienceSuite.Time = {
        now,
        advance: (millis) => TestClock.adjust(Duration.millis(millis)),
        step: (millis) =>
          Effect.sync(() => {
            stepped += millis
          }),
        timers: () => ({ pending, holding: pending }),
        warnings: () => warnings
      }
      yield* one
        .run(ResilienceSuite.driver(time, calls))
        .pipe(Effect.locallyWith(DefaultServices.currentServices, Context.add(Clock.Clock, counting)))
    })
  )
