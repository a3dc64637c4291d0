/**
 * A clock that is set by hand: to any time, also back, and without passing through the times between.
 */
import { Clock, Duration, Effect } from "effect"

/** Its sleeps are plain callbacks: the steps of a sleep are those of the call, not of a test's bookkeeping. */
export class Manual implements Clock.Clock {
  readonly [Clock.ClockTypeId]: Clock.ClockTypeId = Clock.ClockTypeId
  /** Each counts down what passes; setting the clock wakes nobody. */
  readonly sleepers = new Set<{ left: number; readonly wake: () => void }>()
  now = 0
  readonly currentTimeMillis = Effect.sync(() => this.now)
  readonly currentTimeNanos = Effect.sync(() => BigInt(this.now) * 1_000_000n)
  unsafeCurrentTimeMillis(): number {
    return this.now
  }
  unsafeCurrentTimeNanos(): bigint {
    return BigInt(this.now) * 1_000_000n
  }
  sleep(duration: Duration.Duration): Effect.Effect<void> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.suspend(() => {
        // Not by the canceller of `Effect.async`, which an interruption right after the registration does not call.
        let woken: ((effect: Effect.Effect<void>) => void) | undefined
        const sleeper = { left: Duration.toMillis(duration), wake: () => woken?.(Effect.void) }
        this.sleepers.add(sleeper)
        const wait = Effect.async<void>((resume) => {
          woken = resume
        })
        return Effect.ensuring(
          restore(wait),
          Effect.sync(() => this.sleepers.delete(sleeper))
        )
      })
    )
  }
  /** Lets time pass at once: whoever was to wake before is late. */
  advance(millis: number): void {
    this.now += millis
    for (const sleeper of this.sleepers) {
      sleeper.left -= millis
      if (sleeper.left > 0) continue
      this.sleepers.delete(sleeper)
      sleeper.wake()
    }
  }
  /** Sets the clock, as an operator does: no time passes. */
  set(millis: number): void {
    this.now = millis
  }
}
