/**
 * Time that passes as fast as the work in it is done: a clock that goes from millisecond to millisecond, and a scheduler
 * that is done with every fiber in between. `TestClock` waits for the event loop several times a step instead.
 */
import { Cause, Duration, Effect, Exit, Fiber, type Scheduler } from "effect"
import { Manual } from "./manual.ts"

/** Its timers can be late: by what `lateness` says when each is set, in milliseconds. */
class Virtual extends Manual implements Scheduler.Scheduler {
  private readonly lateness: () => number
  private tasks: Array<() => void> = []

  constructor(lateness: () => number) {
    super()
    this.lateness = lateness
  }
  override sleep(duration: Duration.Duration): Effect.Effect<void> {
    return Effect.suspend(() => super.sleep(Duration.millis(Math.ceil(Duration.toMillis(duration)) + this.lateness())))
  }
  shouldYield(): false {
    return false
  }
  scheduleTask(task: () => void): void {
    this.tasks.push(task)
  }
  /** Runs all fibers until each waits for another time. */
  settle(): void {
    while (this.tasks.length > 0) {
      const { tasks } = this
      this.tasks = []
      for (const task of tasks) task()
    }
  }
}

/** Runs the effect for so many milliseconds, and then interrupts it if it has not ended. */
export const run = (
  millis: number,
  program: (clock: Manual) => Effect.Effect<unknown, unknown>,
  lateness: () => number = () => 0
): void => {
  const time = new Virtual(lateness)
  const fiber = Effect.runFork(Effect.withClock(program(time), time), { scheduler: time })
  for (let i = 0; i < millis; i++) {
    time.settle()
    time.advance(1)
  }
  time.settle()
  fiber.unsafeInterruptAsFork(Fiber.id(fiber))
  time.settle()
  const exit = fiber.unsafePoll()
  if (exit === null) throw new Error("it neither ends nor can be interrupted")
  if (Exit.isFailure(exit) && !Exit.isInterrupted(exit)) throw Cause.squash(exit.cause)
}
