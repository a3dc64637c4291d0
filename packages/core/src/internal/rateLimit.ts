/**
 * The state machine of a rate limit: how much has passed, and who waits. All of it is counted in whole numbers, so that
 * nothing drifts however many calls pass. One timer, and only while somebody waits. `RateLimit` is the interface to it.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import { Elapsed } from "./elapsed.ts"
import type { Entry, Gate } from "./gate.ts"
import * as ratio from "./ratio.ts"
import type { Restore } from "./timed.ts"
import { schedule } from "./timer.ts"

/** Settings, durations in milliseconds. */
export interface Settings {
  readonly algorithm: "gcra" | "sliding-window"
  readonly limit: number
  readonly interval: number
  readonly burst: number
  readonly maxWait: number
  readonly maxQueue: number
}

/** What has passed: asked and told in units of cost, at moments that only go forward. */
interface Meter {
  /** The largest cost that can ever pass. */
  readonly largest: number
  /** How much could pass now. */
  available(at: number): number
  /** Takes the units if there are; `waiting` where somebody has waited for them. */
  take(at: number, cost: number, waiting: boolean): boolean
  /** Takes back what was taken at that moment and not used. */
  giveBack(takenAt: number, cost: number): void
  /** In how many milliseconds the cost could pass, behind those before it; `waiting` where somebody has begun to wait. */
  wait(at: number, cost: number, before: Queue<unknown>, waiting: boolean): number
  /** Nobody waits any longer. */
  idle(): void
  /** Units that have passed and still count. */
  used(at: number): number
}

/** A timer that fires late holds calls back; what that comes to is made up for, as far as this (milliseconds). */
const maxLateness = 100

/** More moments than this are not told apart, where the limit is larger: the window is then this many parts. */
const maxMoments = 1_024

/** JavaScript's timers can wait no longer. */
const maxTimer = 2 ** 31 - 1

/**
 * The generic cell rate algorithm as a leaky bucket. A call fills in `perCall`, a millisecond drains `perMilli`; both are
 * whole numbers in the proportion of the rate, so that the level is exact. The bucket holds the burst, and at least one
 * call and a millisecond's worth but one: with clocks of one millisecond that is just what lets the full rate through and
 * never more than `limit` in any `interval`.
 */
export class Gcra implements Meter {
  readonly largest: number
  readonly perCall: number
  readonly perMilli: number
  readonly capacity: number
  private readonly credit: number
  /** What is made up for must not make more than `limit` in any `interval`: a log of what passed sees to that. */
  private readonly guard: SlidingWindow | undefined
  private level = 0
  private at = 0

  constructor(settings: Settings) {
    const [calls, perCalls] = ratio.of(settings.limit)
    const [millis, perMillis] = ratio.of(settings.interval)
    const [perMilli, perCall] = ratio.reduce(calls * perMillis, millis * perCalls)
    this.perCall = perCall
    this.perMilli = perMilli
    this.capacity = Math.max(settings.burst * perCall, perCall + perMilli - 1)
    // Where the log would be too long, what is made up for is at most a hundredth of the limit instead.
    const window = Math.ceil(settings.interval)
    const guarded = settings.limit <= maxMoments || window <= maxMoments
    const lateness = Math.min(maxLateness, Math.floor(settings.interval / (guarded ? 10 : 100)))
    // At the least what comes due between two milliseconds.
    this.credit = Math.max(perMilli - 1, lateness * perMilli)
    this.guard = guarded
      ? new SlidingWindow(Math.ceil((window * perMilli) / perCall) + settings.burst - 1, window, 1)
      : undefined
    this.largest = Math.floor(this.capacity / perCall)
  }

  /** Whether all that is counted are whole numbers that a double can hold. */
  get exact(): boolean {
    return (
      Number.isSafeInteger(this.perCall) &&
      Number.isSafeInteger(this.perMilli) &&
      Number.isSafeInteger(2 * this.capacity + maxLateness * this.perMilli)
    )
  }

  available(at: number): number {
    this.drain(at, 0)
    const room = Math.floor((this.capacity - this.level) / this.perCall)
    return this.guard === undefined ? room : Math.min(room, this.guard.available(at))
  }

  take(at: number, cost: number, waiting: boolean): boolean {
    this.drain(at, waiting ? -this.credit : 0)
    const filled = this.level + cost * this.perCall
    if (filled > this.capacity || this.guard?.take(at, cost) === false) return false
    this.level = filled
    return true
  }

  giveBack(takenAt: number, cost: number): void {
    this.level = Math.max(0, this.level - cost * this.perCall)
    this.guard?.giveBack(takenAt, cost)
  }

  wait(at: number, cost: number, before: Queue<unknown>, waiting: boolean): number {
    this.drain(at, waiting ? -this.credit : 0)
    const over = this.level + (before.cost + cost) * this.perCall - this.capacity
    return Math.max(0, Math.ceil(over / this.perMilli), this.guard?.wait(at, cost, before) ?? 0)
  }

  idle(): void {
    if (this.level < 0) this.level = 0
  }

  used(at: number): number {
    this.drain(at, 0)
    return Math.ceil(this.level / this.perCall)
  }

  /** Takes over as much of the bucket as was full before. */
  adopt(at: number, full: number): void {
    this.at = at
    this.level = Math.min(this.capacity, Math.ceil(full * this.capacity))
  }

  /** How much of the bucket is full, from 0 to 1. */
  full(at: number): number {
    this.drain(at, 0)
    return Math.max(0, this.level) / this.capacity
  }

  private drain(at: number, floor: number): void {
    const elapsed = at - this.at
    if (elapsed <= 0) return
    this.at = at
    this.level = Math.max(Math.min(floor, this.level), this.level - elapsed * this.perMilli)
  }
}

/**
 * A log of what passed and when. Weighted counters would need less room and let through too much or too little where
 * calls do not come evenly; here `limit` is never exceeded in any `interval`. Calls of one millisecond share an entry, and
 * where there could be more than 1,024 of them those of one part of the window do, which counts as its last.
 */
export class SlidingWindow implements Meter {
  readonly largest: number
  private readonly interval: number
  private readonly grain: number
  private times: Array<number> = []
  private counts: Array<number> = []
  private starts: Array<number> = []
  private first = 0
  private total = 0

  constructor(limit: number, interval: number, grain: number) {
    this.largest = limit
    this.interval = interval
    this.grain = grain
  }

  available(at: number): number {
    this.forget(at)
    return Math.max(0, this.largest - this.total)
  }

  take(at: number, cost: number): boolean {
    this.forget(at)
    if (this.total + cost > this.largest) return false
    this.push(at, cost)
    return true
  }

  giveBack(takenAt: number, cost: number): void {
    for (let i = this.times.length - 1; i >= this.first; i--) {
      if ((this.starts[i] ?? 0) > takenAt) continue
      if ((this.times[i] ?? 0) < takenAt) return
      this.counts[i] = (this.counts[i] ?? 0) - cost
      this.total -= cost
      return
    }
  }

  wait(at: number, cost: number, before: Queue<unknown>): number {
    this.forget(at)
    if (before.cost !== before.size) return this.simulate(at, cost, before)
    // Those before take one unit each: the n-th from now passes a window after the one `limit` before it.
    const last = before.size + cost
    const windows = Math.ceil(last / this.largest) - 1
    return windows * this.interval + this.freed(at, last - windows * this.largest)
  }

  idle(): void {}

  used(at: number): number {
    this.forget(at)
    return this.total
  }

  /** What was logged stays logged, whatever the limit is now. */
  adopt(other: SlidingWindow): void {
    this.times = other.times
    this.counts = other.counts
    this.starts = other.starts
    this.first = other.first
    this.total = other.total
  }

  /** As if so much had passed at this moment. */
  push(at: number, cost: number): void {
    const last = this.times.length - 1
    if (last >= this.first && at - (this.starts[last] ?? 0) < this.grain) {
      this.times[last] = at
      this.counts[last] = (this.counts[last] ?? 0) + cost
    } else {
      this.starts.push(at)
      this.times.push(at)
      this.counts.push(cost)
    }
    this.total += cost
  }

  /** In how many milliseconds there is room for so many units, up to `limit`. */
  private freed(at: number, units: number): number {
    let over = this.total + units - this.largest
    for (let i = this.first; i < this.times.length; i++) {
      if (over <= 0) return i === this.first ? 0 : this.expiry(i - 1, at)
      over -= this.counts[i] ?? 0
    }
    return this.times.length === this.first ? 0 : this.expiry(this.times.length - 1, at)
  }

  private expiry(index: number, at: number): number {
    return (this.times[index] ?? 0) + this.interval - at
  }

  /** Calls of several units pass when the last of them can, so each has to be followed. */
  private simulate(at: number, cost: number, before: Queue<unknown>): number {
    const times = this.times.slice(this.first)
    const counts = this.counts.slice(this.first)
    let total = this.total
    let oldest = 0
    let moment = at
    const pass = (units: number): void => {
      while (total + units > this.largest) {
        total -= counts[oldest] ?? 0
        moment = Math.max(moment, (times[oldest] ?? 0) + this.interval)
        oldest++
      }
      times.push(moment)
      counts.push(units)
      total += units
    }
    for (let waiter = before.first; waiter !== undefined; waiter = waiter.next) pass(waiter.cost)
    pass(cost)
    return moment - at
  }

  private forget(at: number): void {
    while (this.first < this.times.length && (this.times[this.first] ?? 0) + this.interval <= at) {
      this.total -= this.counts[this.first] ?? 0
      this.first++
    }
    if (this.first === this.times.length ? this.first > 0 : this.first > 64 && this.first * 2 > this.times.length) {
      this.times = this.times.slice(this.first)
      this.counts = this.counts.slice(this.first)
      this.starts = this.starts.slice(this.first)
      this.first = 0
    }
  }
}

/** A call that waits. */
class Waiter<Rejection> {
  previous: Waiter<Rejection> | undefined = undefined
  next: Waiter<Rejection> | undefined = undefined
  /** Undefined while it waits; then what comes of it. */
  result: Effect.Effect<void, Rejection> | undefined = undefined
  /** When it passed, if it did. */
  passedAt: number | undefined = undefined
  private resume: ((effect: Effect.Effect<void>) => void) | undefined = undefined
  readonly cost: number
  /** How long it may still wait when it begins to, and from when. */
  readonly patience: number
  readonly since: number
  readonly fiber: Fiber.RuntimeFiber<unknown, unknown>

  constructor(cost: number, patience: number, since: number, fiber: Fiber.RuntimeFiber<unknown, unknown>) {
    this.cost = cost
    this.patience = patience
    this.since = since
    this.fiber = fiber
  }

  listen(resume: (effect: Effect.Effect<void>) => void): void {
    if (this.result === undefined) this.resume = resume
    else resume(Effect.void)
  }

  settle(result: Effect.Effect<void, Rejection>): void {
    this.result = result
    this.resume?.(Effect.void)
  }
}

/** Those that wait, first come first served; linked, so that one who gives up leaves without a search. */
class Queue<Rejection> {
  first: Waiter<Rejection> | undefined = undefined
  private last: Waiter<Rejection> | undefined = undefined
  size = 0
  cost = 0

  push(waiter: Waiter<Rejection>): void {
    waiter.previous = this.last
    if (this.last === undefined) this.first = waiter
    else this.last.next = waiter
    this.last = waiter
    this.size++
    this.cost += waiter.cost
  }

  remove(waiter: Waiter<Rejection>): void {
    if (waiter.previous === undefined) this.first = waiter.next
    else waiter.previous.next = waiter.next
    if (waiter.next === undefined) this.last = waiter.previous
    else waiter.next.previous = waiter.previous
    waiter.previous = undefined
    waiter.next = undefined
    this.size--
    this.cost -= waiter.cost
  }
}

/** Nobody before: what a waiter at the head has to wait for. */
const nobody = new Queue<never>()

const meter = (settings: Settings): Gcra | SlidingWindow => {
  if (settings.algorithm === "gcra") return new Gcra(settings)
  const interval = Math.ceil(settings.interval)
  const grain = settings.limit <= maxMoments ? 1 : Math.ceil(interval / maxMoments)
  return new SlidingWindow(settings.limit, interval, grain)
}

const live = (fiber: Fiber.RuntimeFiber<unknown, unknown>): Clock.Clock =>
  Context.get(fiber.currentDefaultServices, Clock.Clock)

export class RateLimiter<Rejection> implements Gate<Rejection> {
  settings: Settings
  /** Units of cost that have passed, and calls that were refused. */
  passed = 0
  rejected = 0
  private meter: Gcra | SlidingWindow
  private readonly elapsed = new Elapsed()
  private readonly queue = new Queue<Rejection>()
  private readonly reject: (retryAfter: number) => Rejection
  private readonly name: string
  /** When the timer fires, and what takes it back. */
  private wakeAt = 0
  private steps = 0
  private cancelTimer: (() => void) | undefined = undefined

  constructor(name: string, settings: Settings, reject: (retryAfter: number) => Rejection) {
    this.name = name
    this.settings = settings
    this.reject = reject
    this.meter = meter(settings)
  }

  get waiting(): number {
    return this.queue.size
  }

  available(now: number): number {
    return this.queue.size > 0 ? 0 : this.meter.available(this.elapsed.at(now))
  }

  /** In how many milliseconds a call of this cost could pass. */
  wait(now: number, cost: number): number {
    return this.meter.wait(this.elapsed.at(now), cost, this.queue, this.queue.size > 0)
  }

  tryEnter(now: number, cost: number): boolean {
    if (this.queue.first !== undefined || this.problem(cost) !== undefined) return false
    if (!this.meter.take(this.elapsed.at(now), cost, false)) return false
    this.passed += cost
    return true
  }

  enter(restore: Restore, deadline: number, entry: Entry): Effect.Effect<void, Rejection> {
    return Effect.withFiberRuntime<void, Rejection>((fiber) => {
      const cost = entry.weight
      const wrong = this.problem(cost)
      if (wrong !== undefined) return Effect.dieMessage(wrong)
      const now = live(fiber).unsafeCurrentTimeMillis()
      // Whoever is due passes before those that come now, even if the timer is late.
      this.release(now)
      if (this.tryEnter(now, cost)) return Effect.void
      const wait = this.wait(now, cost)
      const { maxQueue, maxWait } = this.settings
      if (wait > maxWait || this.queue.size >= maxQueue || now + wait >= deadline) {
        this.rejected++
        return Effect.failCause(Cause.fail(this.reject(wait)))
      }
      const at = this.elapsed.at(now)
      const waiter = new Waiter<Rejection>(cost, Math.min(maxWait, deadline - now), at, fiber)
      this.queue.push(waiter)
      this.arm(at)
      return Effect.matchCauseEffect(restore(Effect.async<void>((resume) => waiter.listen(resume))), {
        onFailure: (interruption) => {
          this.leave(waiter, live(fiber).unsafeCurrentTimeMillis())
          return Effect.failCause(interruption)
        },
        onSuccess: () => waiter.result ?? Effect.void
      })
    })
  }

  /** Changes the settings and keeps what has passed and who waits; who would now wait too long is refused at once. */
  reload(settings: Settings, now: number): void {
    const at = this.elapsed.at(now)
    const before = this.meter
    const after = meter(settings)
    if (after instanceof SlidingWindow) {
      if (before instanceof SlidingWindow) after.adopt(before)
      else if (before.used(at) > 0) after.push(at, before.used(at))
    } else if (before instanceof Gcra) {
      after.adopt(at, before.full(at))
    } else {
      after.adopt(at, (before.used(at) * after.perCall) / after.capacity)
    }
    this.settings = settings
    this.meter = after
    const waiters: Array<Waiter<Rejection>> = []
    for (let waiter = this.queue.first; waiter !== undefined; waiter = waiter.next) waiters.push(waiter)
    for (const waiter of waiters) this.queue.remove(waiter)
    for (const waiter of waiters) {
      const wrong = this.problem(waiter.cost)
      const wait = wrong === undefined ? after.wait(at, waiter.cost, this.queue, true) : 0
      const waited = at - waiter.since
      if (wrong !== undefined) {
        waiter.settle(Effect.dieMessage(wrong))
      } else if (waited + wait > waiter.patience) {
        this.rejected++
        waiter.settle(Effect.failCause(Cause.fail(this.reject(wait))))
      } else {
        this.queue.push(waiter)
      }
    }
    this.release(now)
  }

  /** What is wrong with a cost, if anything is. */
  problem(cost: number): string | undefined {
    if (!(Number.isInteger(cost) && cost >= 1)) {
      return `RateLimit "${this.name}": a call cannot cost ${cost}: give a whole number of 1 or more`
    }
    const { largest } = this.meter
    if (cost <= largest) return undefined
    return this.settings.algorithm === "gcra"
      ? `RateLimit "${this.name}": a call that costs ${cost} can never pass a burst of ${largest}: raise rateLimit.burst to ${cost} or more`
      : `RateLimit "${this.name}": a call that costs ${cost} can never pass a limit of ${largest}: raise rateLimit.limit to ${cost} or more`
  }

  /** Lets pass who is due, and sets the timer for the next. */
  private release(now: number): void {
    const at = this.elapsed.at(now)
    for (let head = this.queue.first; head !== undefined; head = this.queue.first) {
      if (!this.meter.take(at, head.cost, true)) break
      this.passed += head.cost
      this.queue.remove(head)
      head.passedAt = at
      head.settle(Effect.void)
    }
    this.arm(at)
  }

  /** The caller is interrupted: those behind move up, and what it had taken in the meantime is theirs. */
  private leave(waiter: Waiter<Rejection>, now: number): void {
    if (waiter.result === undefined) {
      this.queue.remove(waiter)
    } else if (waiter.passedAt !== undefined) {
      this.meter.giveBack(waiter.passedAt, waiter.cost)
      this.passed -= waiter.cost
    }
    this.release(now)
  }

  private arm(at: number): void {
    const head = this.queue.first
    if (head === undefined) {
      this.meter.idle()
      this.cancelTimer?.()
      this.cancelTimer = undefined
      return
    }
    const delay = Math.min(maxTimer, Math.max(1, this.meter.wait(at, head.cost, nobody, true)))
    if (this.cancelTimer !== undefined) {
      if (this.wakeAt === at + delay) return
      this.cancelTimer()
    }
    this.wakeAt = at + delay
    this.steps = this.elapsed.steps
    const clock = live(head.fiber)
    this.cancelTimer = schedule(head.fiber, delay, () => {
      this.cancelTimer = undefined
      const now = clock.unsafeCurrentTimeMillis()
      const missing = this.wakeAt - this.elapsed.at(now)
      // The clock was set back meanwhile, but the timer tells how long it was.
      if (missing > 0 && this.elapsed.steps !== this.steps) this.elapsed.add(missing)
      this.release(now)
    })
  }
}
