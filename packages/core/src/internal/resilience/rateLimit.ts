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
  /** What passed and when. */
  readonly log: Log
  /** How much could pass now. */
  available(at: number): number
  take(at: number, cost: number): boolean
  /** Takes back what was taken at that moment and not used. */
  giveBack(takenAt: number, cost: number): void
  /** In how many milliseconds the cost could pass, behind those before it. */
  wait(at: number, cost: number, before: Queue<unknown>): number
  /** Whether somebody waits from now on. */
  waiting(someone: boolean): void
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
 * never more than `limit` in any `interval`. While somebody waits the level goes below empty, which makes up for timers
 * that are late; the log keeps that, too, within the limit.
 */
export class Gcra implements Meter {
  readonly largest: number
  readonly log: Log
  readonly perCall: number
  readonly perMilli: number
  readonly capacity: number
  private readonly credit: number
  private floor = 0
  private level = 0
  private at = 0

  constructor(settings: Settings) {
    const [calls, perCalls] = ratio.of(settings.limit)
    const [millis, perMillis] = ratio.of(settings.interval)
    const [perMilli, perCall] = ratio.reduce(calls * perMillis, millis * perCalls)
    this.perCall = perCall
    this.perMilli = perMilli
    this.capacity = Math.max(settings.burst * perCall, perCall + perMilli - 1)
    // At the least what comes due between two milliseconds.
    const lateness = Math.min(maxLateness, Math.floor(settings.interval / 10))
    this.credit = Math.max(perMilli - 1, lateness * perMilli)
    // Parts count for longer than the interval, by up to their own length: the even rate must not run into that.
    const counted = (Math.ceil(settings.interval) + grainOf(settings) - 1) / settings.interval
    this.log = new Log(Math.ceil(settings.limit * counted) + settings.burst - 1, settings)
    this.largest = Math.floor(this.capacity / perCall)
  }

  /** Whether all that is counted are whole numbers that a double can hold. */
  get exact(): boolean {
    // The capacity is at least what a call fills in and a millisecond drains.
    return Number.isSafeInteger(2 * this.capacity + maxLateness * this.perMilli)
  }

  available(at: number): number {
    this.drain(at)
    return Math.min(Math.floor((this.capacity - this.level) / this.perCall), this.log.available(at))
  }

  take(at: number, cost: number): boolean {
    this.drain(at)
    const filled = this.level + cost * this.perCall
    if (filled > this.capacity || !this.log.take(at, cost)) return false
    this.level = filled
    return true
  }

  giveBack(takenAt: number, cost: number): void {
    this.level = Math.max(this.floor, this.level - cost * this.perCall)
    this.log.giveBack(takenAt, cost)
  }

  wait(at: number, cost: number, before: Queue<unknown>): number {
    this.drain(at)
    const over = this.level + (before.cost + cost) * this.perCall - this.capacity
    return Math.max(0, Math.ceil(over / this.perMilli), this.log.wait(at, cost, before))
  }

  waiting(someone: boolean): void {
    this.floor = someone ? -this.credit : 0
    this.level = Math.max(this.floor, this.level)
  }

  /** Takes over as much of the bucket as was full before, and of the log what the rate of now would have let pass. */
  adopt(at: number, before: Gcra | Log): void {
    const full = before instanceof Gcra ? before.full(at) : (before.used(at) * this.perCall) / this.capacity
    this.at = at
    this.level = Math.max(this.floor, Math.min(this.capacity, Math.ceil(full * this.capacity)))
    this.log.adopt(before.log, Math.min(1, this.log.rate / before.log.rate))
  }

  /** How much of the bucket is full, up to 1. */
  private full(at: number): number {
    this.drain(at)
    return this.level / this.capacity
  }

  private drain(at: number): void {
    this.level = Math.max(this.floor, this.level - (at - this.at) * this.perMilli)
    this.at = at
  }
}

/** How many milliseconds of a log are one moment. */
const grainOf = (settings: Settings): number =>
  settings.limit <= maxMoments ? 1 : Math.ceil(settings.interval / maxMoments)

/** What passed from one moment to another, which counts as if all of it had at the later one. */
interface Passed {
  readonly from: number
  to: number
  units: number
}

/**
 * The sliding window: a log of what passed and when. Weighted counters would need less room and let through too much or
 * too little where calls do not come evenly; here `limit` is never exceeded in any `interval`. Calls of one millisecond
 * share an entry, and where there could be more than 1,024 of them those of one part of the window do.
 */
export class Log implements Meter {
  readonly largest: number
  private readonly interval: number
  private readonly grain: number
  private entries: Array<Passed> = []
  /** The first that still counts. */
  private first = 0
  private total = 0

  constructor(limit: number, settings: Settings) {
    this.largest = limit
    this.interval = Math.ceil(settings.interval)
    this.grain = grainOf(settings)
  }

  get log(): Log {
    return this
  }

  /** Units in a millisecond. */
  get rate(): number {
    return this.largest / this.interval
  }

  available(at: number): number {
    return Math.max(0, this.largest - this.used(at))
  }

  take(at: number, cost: number): boolean {
    if (this.used(at) + cost > this.largest) return false
    const last = this.entries[this.entries.length - 1]
    if (last !== undefined && at - last.from < this.grain) {
      last.to = at
      last.units += cost
    } else {
      this.entries.push({ from: at, to: at, units: cost })
    }
    this.total += cost
    return true
  }

  giveBack(takenAt: number, cost: number): void {
    for (let i = this.entries.length - 1; i >= this.first; i--) {
      const entry = this.entries[i]
      if (entry === undefined || entry.from > takenAt) continue
      const units = entry.to < takenAt ? 0 : Math.min(cost, entry.units)
      entry.units -= units
      this.total -= units
      return
    }
  }

  wait(at: number, cost: number, before: Queue<unknown>): number {
    const used = this.used(at)
    if (before.cost !== before.size) return this.simulate(at, cost, before)
    // Those before take one unit each: the n-th from now passes a window after the one `limit` before it.
    const last = before.size + cost
    const windows = Math.ceil(last / this.largest) - 1
    let over = used + last - (windows + 1) * this.largest
    let free = at
    for (let i = this.first; over > 0 && i < this.entries.length; i++) {
      const { to, units } = this.entries[i] ?? none
      over -= units
      free = to + this.interval
    }
    return windows * this.interval + free - at
  }

  waiting(): void {}

  /** Units that have passed and still count. */
  used(at: number): number {
    for (let entry = this.entries[this.first]; entry !== undefined; entry = this.entries[this.first]) {
      if (entry.to + this.interval > at) break
      this.total -= entry.units
      this.first++
    }
    if (this.first > 64 && this.first * 2 > this.entries.length) {
      this.entries = this.entries.slice(this.first)
      this.first = 0
    }
    return this.total
  }

  /** What was logged stays logged, or such a part of it. */
  adopt(other: Log, part = 1): void {
    let seen = 0
    this.entries = other.entries.slice(other.first).map(({ from, to, units }) => {
      const before = Math.ceil(seen * part)
      seen += units
      return { from, to, units: Math.ceil(seen * part) - before }
    })
    this.total = Math.ceil(seen * part)
  }

  /** Calls of several units pass when the last of them can, so each has to be followed. */
  private simulate(at: number, cost: number, before: Queue<unknown>): number {
    const entries: Array<Pick<Passed, "to" | "units">> = this.entries.slice(this.first)
    let total = this.total
    let oldest = 0
    let moment = at
    const pass = (units: number): void => {
      while (total + units > this.largest) {
        const entry = entries[oldest++] ?? none
        total -= entry.units
        moment = Math.max(moment, entry.to + this.interval)
      }
      entries.push({ to: moment, units })
      total += units
    }
    for (let waiter = before.first; waiter !== undefined; waiter = waiter.next) pass(waiter.cost)
    pass(cost)
    return moment - at
  }
}

/** No entry. */
const none: Passed = { from: 0, to: 0, units: 0 }

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
  /** The last moment at which it may pass, whatever the settings become. */
  readonly latest: number
  readonly fiber: Fiber.RuntimeFiber<unknown, unknown>

  constructor(cost: number, latest: number, fiber: Fiber.RuntimeFiber<unknown, unknown>) {
    this.cost = cost
    this.latest = latest
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

const meter = (settings: Settings): Gcra | Log =>
  settings.algorithm === "gcra" ? new Gcra(settings) : new Log(settings.limit, settings)

const live = (fiber: Fiber.RuntimeFiber<unknown, unknown>): Clock.Clock =>
  Context.get(fiber.currentDefaultServices, Clock.Clock)

export class RateLimiter<Rejection> implements Gate<Rejection> {
  settings: Settings
  /** Units of cost that have passed, and calls that were refused. */
  passed = 0
  rejected = 0
  private meter: Gcra | Log
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
    return this.meter.wait(this.elapsed.at(now), cost, this.queue)
  }

  tryEnter(now: number, cost: number): boolean {
    if (this.queue.first !== undefined || this.problem(cost) !== undefined) return false
    if (!this.meter.take(this.elapsed.at(now), cost)) return false
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
      const waiter = new Waiter<Rejection>(cost, at + Math.min(maxWait, Math.ceil(deadline - now) - 1), fiber)
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
    const after = meter(settings)
    after.waiting(this.queue.size > 0)
    if (after instanceof Gcra) after.adopt(at, this.meter)
    else after.adopt(this.meter.log)
    this.settings = settings
    this.meter = after
    const waiters: Array<Waiter<Rejection>> = []
    for (let waiter = this.queue.first; waiter !== undefined; waiter = waiter.next) waiters.push(waiter)
    for (const waiter of waiters) this.queue.remove(waiter)
    for (const waiter of waiters) {
      const wrong = this.problem(waiter.cost)
      if (wrong !== undefined) {
        waiter.settle(Effect.dieMessage(wrong))
        continue
      }
      const wait = after.wait(at, waiter.cost, this.queue)
      if (at + wait > waiter.latest) {
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
      if (!this.meter.take(at, head.cost)) break
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
    this.meter.waiting(head !== undefined)
    if (head === undefined) {
      this.cancelTimer?.()
      this.cancelTimer = undefined
      return
    }
    const delay = Math.min(maxTimer, Math.max(1, this.meter.wait(at, head.cost, nobody)))
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
