/**
 * Schedulers that meet a certain step: of the many orders in which fibers can take turns, each in its turn.
 */
import { type Effect, type Fiber, Runtime, Scheduler } from "effect"

type AnyFiber = Fiber.RuntimeFiber<unknown, unknown>

/** Interrupts the first fiber that it sees once that has taken `step` steps. */
export class Interrupter implements Scheduler.Scheduler {
  taken = 0
  private readonly step: number
  private target: AnyFiber | undefined
  constructor(step: number) {
    this.step = step
  }
  get reached() {
    return this.taken >= this.step
  }
  shouldYield(fiber: AnyFiber): number | false {
    this.target ??= fiber
    if (fiber === this.target && ++this.taken === this.step) fiber.unsafeInterruptAsFork(fiber.id())
    return false
  }
  scheduleTask(task: Scheduler.Task, priority: number): void {
    Scheduler.defaultScheduler.scheduleTask(task, priority)
  }
}

/** Holds up the fiber that takes the `step`-th of all steps for two turns of the event loop; counts while it is armed. */
export class Pauser implements Scheduler.Scheduler {
  taken = 0
  armed = true
  private readonly step: number
  private pausing = false
  constructor(step: number) {
    this.step = step
  }
  get reached() {
    return this.taken >= this.step
  }
  shouldYield(): number | false {
    if (!this.armed || ++this.taken !== this.step) return false
    this.pausing = true
    return 0
  }
  scheduleTask(task: Scheduler.Task, priority: number): void {
    if (this.pausing) {
      this.pausing = false
      setImmediate(() => setImmediate(task))
    } else {
      Scheduler.defaultScheduler.scheduleTask(task, priority)
    }
  }
}

/** Runs an effect of others between two steps of the first fiber that it sees, once that has taken `step` steps. */
export class Intruder<R> implements Scheduler.Scheduler {
  reached = false
  private taken = 0
  private readonly step: number
  private readonly runtime: Runtime.Runtime<R>
  private readonly effect: Effect.Effect<unknown, unknown, R>
  private target: AnyFiber | undefined
  constructor(step: number, runtime: Runtime.Runtime<R>, effect: Effect.Effect<unknown, unknown, R>) {
    this.step = step
    this.runtime = runtime
    this.effect = effect
  }
  shouldYield(fiber: AnyFiber): number | false {
    this.target ??= fiber
    if (fiber !== this.target || this.taken++ !== this.step) return false
    this.reached = true
    Runtime.runSync(this.runtime, this.effect)
    return false
  }
  scheduleTask(task: Scheduler.Task, priority: number): void {
    Scheduler.defaultScheduler.scheduleTask(task, priority)
  }
}
